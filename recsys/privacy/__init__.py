"""Whose data may be used and under which name: consent, retention, pseudonyms, who was erased, who read what."""

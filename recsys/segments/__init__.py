"""Segments of users: fitted as of one cut, stored, and assigned to anybody at any later one."""

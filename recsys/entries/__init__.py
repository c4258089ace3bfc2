"""What each verb of the console does; they read like tables of contents."""

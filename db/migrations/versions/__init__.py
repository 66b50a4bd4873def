"""One module a revision; released ones are never edited."""

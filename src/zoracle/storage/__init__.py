"""Files that users rely on: written whole, locked, hashed, never pickles."""

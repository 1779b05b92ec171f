"""Scripts that make files of this repository: figures and tables that are held up to date by tests."""

"""One optimizer on the problems of a task under several seeds, shared between processes."""

"""What an evaluation hands back, and the definitions of the numbers made of it."""

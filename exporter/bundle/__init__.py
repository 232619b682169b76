"""Write a bundle: a folder that is whole or absent."""

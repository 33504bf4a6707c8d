"""Trains a vocabulary on anybody's text, and shows how it suits the rest."""

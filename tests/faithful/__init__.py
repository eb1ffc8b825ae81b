"""The faithful-or-refused suite: a changed source is followed, or refused."""

"""Finished outputs looked at: two of them compared, and one of them in pictures. Asks no model anything."""

"""Commands about a machine or finished files: they ask no model anything."""

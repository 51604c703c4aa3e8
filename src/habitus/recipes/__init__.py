"""The recipes that come with Habitus, as TOML files."""

"""A small shop, for the story in docs/story.md."""

"""A site's owner: the box with images, keys, grants, pinned keys and the audit log."""

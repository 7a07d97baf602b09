"""A summary as text: its tables, and the formats in which they are written."""

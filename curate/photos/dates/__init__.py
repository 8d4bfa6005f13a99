"""When photos were taken, and how far these dates can be trusted."""

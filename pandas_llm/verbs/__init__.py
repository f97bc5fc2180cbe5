"""What is asked: each verb is fixed messages, an answer schema and how a reply becomes values."""

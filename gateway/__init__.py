"""The gateway: tasks come in over HTTP and are accepted when the log has them."""

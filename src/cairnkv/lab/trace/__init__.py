"""Protocol tracing: frames to fields, fields to lines, and the proxy of `cairn trace`."""

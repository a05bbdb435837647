"""The transports of a stream: a WebSocket, server-sent events, long polls."""

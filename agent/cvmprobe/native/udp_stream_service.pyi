"""The responder's end of a datagram stream; it has nothing for Python."""

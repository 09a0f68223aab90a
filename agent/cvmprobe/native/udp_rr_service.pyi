"""The responder's end of udp_rr, for the responder's table only."""

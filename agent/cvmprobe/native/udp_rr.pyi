"""Request and response in single datagrams over connected UDP sockets: the serving side."""

"""Programs that the tests start hear Ctrl-C, also where a shell started the tests in the background and deaf to it."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

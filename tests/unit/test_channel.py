"""What a client shows of itself: a token that cannot stand in a header is told in one line, not by gRPC."""

import pytest

from cvmprobe.errors import UsageError
from cvmprobe.wire.channel import bearer


def test_a_token_is_put_into_the_metadata() -> None:
    assert bearer("abc.DEF-123_~+/=") == (("authorization", "Bearer abc.DEF-123_~+/="),)


@pytest.mark.parametrize("token", ["a\nb", "a\rb", "abc xyz", "a\tb", "a\0b", "tök", "a\x7f", "\ufffd"])
def test_a_token_that_no_header_may_hold_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(UsageError, match="the token") as refused:
        bearer(token)
    assert token not in str(refused.value)

"""Parameters of a probe as text: defaults, and one clear line for what is wrong."""

from typing import Annotated, Literal

import msgspec
import pytest

from cvmprobe.errors import UsageError
from cvmprobe.model.window import Probe
from cvmprobe.probes.entry import read_parameters


class Parameters(msgspec.Struct, frozen=True):
    streams: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    wait: Literal["block", "spin"] = "block"
    order: Annotated[Literal["even"], msgspec.Meta(description="with words of its own")] = "even"


def read(**parameters):
    return read_parameters(Parameters, Probe.TCP_RR, parameters)


def test_text_becomes_typed_values_and_defaults_fill_the_rest():
    assert read() == Parameters()
    assert read(streams="8") == Parameters(streams=8)


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"streams": "0"}, "streams = '0'"),
        ({"streams": "65"}, "streams = '65'"),
        ({"streams": "many"}, "streams = 'many'"),
        ({"wait": "sleep"}, "wait = 'sleep': say one of block, spin"),
        ({"order": "odd"}, "order = 'odd': say one of even"),
        ({"stream": "2"}, "no parameter 'stream'; it has streams, wait, order"),
    ],
)
def test_what_is_wrong_is_named_with_its_value(parameters, named):
    with pytest.raises(UsageError, match=named) as caught:
        read(**parameters)
    assert str(caught.value).startswith("tcp_rr")
    assert "\n" not in str(caught.value)

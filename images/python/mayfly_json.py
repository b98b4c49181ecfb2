"""JSON as the module `json` reads and writes it, without its import.

That takes ten milliseconds, nearly all of them for regular expressions, which is as long as all else that a
sandbox's Python does for a task. What does the work is in C, in `_json`; where that is missing, or something
is wrong with a text, it is left to `json`, and so are the words that say what.
"""

SPACE = " \t\n\r"


def loads(data: bytes) -> object:
    """What `json.loads` gives."""
    try:
        text = data.decode()
        start = len(text) - len(text.lstrip(SPACE))
        value, end = _scan(text, start)
        if not text[end:].strip(SPACE):
            return value
    except (StopIteration, ValueError):
        pass
    import json

    return json.loads(data)


def dumps(value: object, default=None, *, ascii: bool = True) -> str:
    """What `json.dumps` gives without spaces, and without what is no JSON: a number that is not finite is a
    `ValueError`. `default` makes something else of what JSON has no form for."""
    return "".join(_encoder(default or _refuse, ascii)(value, 0))


def _refuse(value: object):
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


try:
    import _json

    class _Rules:
        """What `_json` asks of a `JSONDecoder`."""

        strict = True
        object_hook = object_pairs_hook = None
        parse_float = float
        parse_int = int
        parse_constant = {
            "-Infinity": float("-inf"),
            "Infinity": float("inf"),
            "NaN": float("nan"),
        }.__getitem__

    _scan = _json.make_scanner(_Rules)

    def _encoder(default, ascii: bool):
        text = _json.encode_basestring_ascii if ascii else _json.encode_basestring
        # The containers that it is in, to find one that holds itself; then spaces, separators, whether keys
        # are sorted or may be left out, and whether a number may be no number.
        return _json.make_encoder({}, default, text, None, ":", ",", False, False, False)

    _scan("[0]", 0)
    dumps([0])
except (ImportError, AttributeError, TypeError):
    import json

    _scan = json.JSONDecoder().scan_once

    def _encoder(default, ascii: bool):
        encoder = json.JSONEncoder(
            default=default, ensure_ascii=ascii, separators=(",", ":"), allow_nan=False
        )
        return lambda value, _: encoder.iterencode(value)

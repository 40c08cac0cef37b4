"""SI figures as people read them; the only place with GiB and ms."""

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
_DECIMAL = ("", "k", "M", "G", "T", "P", "E")


def bytes_text(bytes_: float) -> str:
    """Bytes with a binary prefix.

    >>> bytes_text(1536), bytes_text(80 * 2**30), bytes_text(12)
    ('1.50 KiB', '80.0 GiB', '12 B')
    """
    sign, left, unit = "-" if bytes_ < 0 else "", abs(bytes_), 0
    while left >= 1024 and unit < len(_BINARY) - 1:
        left /= 1024
        unit += 1
    digits = f"{left:.0f}" if unit == 0 else _three_digits(left)
    return f"{sign}{digits} {_BINARY[unit]}"


def seconds_text(seconds: float) -> str:
    """A time with the prefix that suits it.

    >>> seconds_text(0.01234), seconds_text(0.0), seconds_text(75)
    ('12.3 ms', '0 s', '75.0 s')
    """
    if seconds == 0:
        return "0 s"
    for scale, unit in _SECONDS:
        if abs(seconds) >= scale:
            return f"{_three_digits(seconds / scale)} {unit}"
    return f"{seconds:.1e} s"


def count_text(count: float) -> str:
    """A large number with a decimal prefix.

    >>> count_text(1.5e12), count_text(999)
    ('1.50 T', '999')
    """
    unit = 0
    while abs(count) >= 1000 and unit < len(_DECIMAL) - 1:
        count /= 1000
        unit += 1
    return f"{count:.0f}" if unit == 0 else f"{_three_digits(count)} {_DECIMAL[unit]}"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number of things, the noun in step with it.

    >>> counted(1, "op"), counted(2, "op"), counted(0, "mesh", "meshes")
    ('1 op', '2 ops', '0 meshes')
    """
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def percent_text(share: float) -> str:
    """A share of one in percent.

    >>> percent_text(0.0123), percent_text(0.5)
    ('1.2 %', '50 %')
    """
    percent = 100 * share
    return f"{percent:.1f} %" if abs(percent) < 10 else f"{percent:.0f} %"


def _three_digits(number: float) -> str:
    decimals = 2 if abs(number) < 9.995 else 1 if abs(number) < 99.95 else 0
    return f"{number:.{decimals}f}"

"""The size of video that the networks of a loss need."""


def check_least(height: int, width: int, least: int, network: str) -> None:
    """Raise if a video is smaller than a network of the loss needs.

    Raises:
        ValueError: it is.
    """
    if min(height, width) < least:
        raise ValueError(
            f"a video of {width}x{height} pixels, {network} needs at least {least}x{least}"
        )

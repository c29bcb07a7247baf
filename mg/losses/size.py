"""The size of video that the networks of a loss need."""


def check_least(height: int, width: int, least: int, network: str) -> None:
    """Raise unless a video's height and width are what a network of the loss needs at least.

    Raises:
        ValueError: they are not.
    """
    if min(height, width) < least:
        raise ValueError(
            f"a video of {height} x {width} pixels, {network} needs at least {least} x {least}"
        )

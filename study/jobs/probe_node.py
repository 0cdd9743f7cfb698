"""What a node says of the data before a study starts."""

from nodekd.data.dataset import DataConfig, identify


def split_hash(name: str, root: str, image_size: int | None, shuffle: bool) -> str:
    """Find this machine's data and name its division into splits; no picture is decoded, none of test is looked at.

    Raises:
        DataError: If the data is missing or laid out in another way here.
    """
    return identify(DataConfig(name, root, image_size, shuffle))

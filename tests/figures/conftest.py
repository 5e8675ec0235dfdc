import base64
import io

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def decode():
    """PNG data URI -> uint8 (H, W, 3), as a browser would read it."""

    def pixels(uri):
        head, data = uri.split(",")
        assert head == "data:image/png;base64"
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))

    return pixels

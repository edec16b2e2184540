"""The registry: which backend draws for which value of IMAGES_BACKEND. A literal, so that freezing and mypy see it."""

from collections.abc import Mapping

from appliance.backends.a1111 import A1111Backend
from appliance.backends.base import ImageBackend
from appliance.backends.mock_images import MockBackend
from appliance.backends.openai_images import OpenAIImagesBackend
from appliance.config.settings import ImagesBackend

IMAGE_BACKENDS: Mapping[ImagesBackend, ImageBackend] = {
    "mock": MockBackend(),
    "http_a1111": A1111Backend(),
    "http_openai_images": OpenAIImagesBackend(),
}

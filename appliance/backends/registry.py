"""The registry: which backend answers for which provider. Literals, so that freezing and mypy see them."""

from collections.abc import Mapping

from appliance.backends.a1111 import A1111Backend
from appliance.backends.base import ImageBackend, LanguageBackend
from appliance.backends.comfyui import ComfyUIBackend
from appliance.backends.mock_chat import MockChatBackend
from appliance.backends.mock_images import MockBackend
from appliance.backends.ollama import OllamaBackend
from appliance.backends.openai import OpenAIBackend
from appliance.backends.openai_images import OpenAIImagesBackend
from appliance.config.classes import Provider
from appliance.config.settings import ImagesBackend

IMAGE_BACKENDS: Mapping[ImagesBackend, ImageBackend] = {
    "mock": MockBackend(),
    "http_a1111": A1111Backend(),
    "http_comfyui": ComfyUIBackend(),
    "http_openai_images": OpenAIImagesBackend(),
}

LANGUAGE_BACKENDS: Mapping[Provider, LanguageBackend] = {
    "openai": OpenAIBackend(),
    "ollama": OllamaBackend(),
    "mock_chat": MockChatBackend(),
}

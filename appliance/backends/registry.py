"""The registry: which backend answers for which provider. Literals, so that freezing and mypy see them."""

from collections.abc import Mapping

from appliance.backends.a1111 import A1111Backend
from appliance.backends.base import ImageBackend, LanguageBackend
from appliance.backends.comfyui import ComfyUIBackend
from appliance.backends.invokeai import InvokeAIBackend
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
    "http_invokeai": InvokeAIBackend(),
}

EDITING: frozenset[ImagesBackend] = frozenset({"http_a1111", "http_comfyui", "http_invokeai", "http_openai_images"})
"""Those that honour `ImageCall.edit`."""

SEVERAL_PICTURES: frozenset[ImagesBackend] = frozenset({"http_openai_images"})
"""Those that honour `ImageEdit.others`."""

WEBSOCKET_PROVIDERS: frozenset[Provider] = frozenset({"comfyui", "invokeai"})
"""Those that tell of their progress over one."""

LANGUAGE_BACKENDS: Mapping[Provider, LanguageBackend] = {
    "openai": OpenAIBackend(),
    "ollama": OllamaBackend(),
    "mock_chat": MockChatBackend(),
}

"""Settings: every value an operator can set, its default and what it means. The environment name is the upper case."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from appliance.config.values import (
    Network,
    parse_base_url,
    parse_boolean,
    parse_host,
    parse_host_names,
    parse_networks,
)

ImagesBackend = Literal["mock", "http_a1111", "http_openai_images"]
Port = Annotated[int, Field(ge=0, le=65535)]  # 0: any free one, said in the ready line
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0)]
Flag = Annotated[bool, BeforeValidator(parse_boolean)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(parse_networks)]
Host = Annotated[str, AfterValidator(parse_host)]
HostNames = Annotated[tuple[str, ...], BeforeValidator(parse_host_names)]
BaseUrl = Annotated[str, AfterValidator(parse_base_url)]


class Settings(BaseModel):
    """What the process was told, frozen. Field descriptions are the README's settings table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Listeners
    gateway_host: Host = Field("127.0.0.1", description="Address of the API listener.")
    gateway_port: Port = Field(8800, description="Port of the API listener; 0 takes a free one.")
    gateway_tls_cert_path: Path | None = Field(None, description="PEM certificate chain: the API listener speaks TLS.")
    gateway_tls_key_path: Path | None = Field(None, description="PEM key of that certificate.")
    observability_enabled: Flag = Field(True, description="Serve health and metrics on a listener of their own.")
    observability_host: Host = Field("127.0.0.1", description="Address of the observability listener.")
    observability_port: Port = Field(8801, description="Port of the observability listener; 0 takes a free one.")
    public_base_url: BaseUrl = Field(
        "", description="Where clients reach the API from outside; absolute URLs start with it."
    )
    gateway_allowed_hosts: HostNames = Field((), description="Further names that a Host header may hold (csv).")
    ip_allowlist: Networks = Field((), description="Only these peers may come in (csv of IP or CIDR); empty: all.")
    trust_proxy_cidrs: Networks = Field((), description="Peers whose X-Forwarded-For and -Proto are believed (csv).")
    max_request_bytes: Bytes = Field(1_000_000, description="Largest request body; 0: no limit.")
    max_connections: Annotated[int, Field(ge=1)] = Field(1024, description="Connections at a time, per listener.")
    head_timeout_sec: Seconds = Field(5, description="A request's headers must be complete within this.")
    body_idle_timeout_sec: Seconds = Field(10, description="Longest silence within a request body.")
    body_timeout_sec: Seconds = Field(60, description="A request's body must be complete within this.")
    idle_timeout_sec: Seconds = Field(75, description="An idle keep-alive connection is closed after this.")
    write_timeout_sec: Seconds = Field(30, description="A client that takes nothing for this long is cut.")
    drain_timeout_sec: Seconds = Field(20, description="What running requests get after SIGTERM.")

    # Tokens
    gateway_bearer_token: SecretStr = Field(SecretStr(""), description="The one token.")
    gateway_bearer_tokens: SecretStr = Field(SecretStr(""), description="Several tokens (csv); replaces the former.")
    gateway_token_file: Path | None = Field(None, description="File with one token a line (a credential file).")
    gateway_token_policies_json: SecretStr = Field(SecretStr(""), description="Object token -> policy that narrows it.")

    # Records
    request_log_enabled: Flag = Field(True, description="Write one journal line per request.")
    request_log_path: Path = Field(
        Path("requests.jsonl"), description="The request journal (below the state directory)."
    )
    request_log_max_bytes: Bytes = Field(
        50_000_000, description="Journal size at which it is turned over; one old file is kept."
    )
    metrics_enabled: Flag = Field(True, description="Serve /metrics.")

    # Backends
    backends_config_path: Path | None = Field(None, description="The backend classes (YAML).")
    ollama_base_url: BaseUrl = Field(
        "http://127.0.0.1:11434", description="Class `ollama` where there is no backends file."
    )
    mlx_base_url: BaseUrl = Field("", description="Class `local_mlx` where there is no backends file.")
    health_check_interval_sec: Seconds = Field(30, description="Every class is probed this often.")
    health_check_timeout_sec: Seconds = Field(5, description="A probe must answer within this.")
    backend_connect_timeout_sec: Seconds = Field(2, description="A backend must take a connection within this.")
    backend_first_byte_timeout_sec: Seconds = Field(60, description="A stream of a model must begin within this.")
    backend_answer_timeout_sec: Seconds = Field(
        600, description="A model's whole answer, where it is not streamed, must be there within this."
    )
    backend_idle_timeout_sec: Seconds = Field(30, description="Longest silence within a backend's answer.")
    backend_cancel_timeout_sec: Seconds = Field(
        120, description="A slot is held at most this long for a cancelled job to end."
    )
    backend_verify_tls: Flag = Field(True, description="Check backends' certificates.")
    backend_ca_bundle: Path | None = Field(None, description="PEM bundle that signs backends' certificates.")
    backend_client_cert: str = Field("", description="Client certificate for backends: `pem` or `cert,key`.")

    # Models
    default_backend: str = Field("ollama", description="The class of models that name no other.")
    ollama_model_strong: str = Field("qwen2.5:32b", description="Model of `auto` and `default` on Ollama.")
    ollama_model_fast: str = Field("qwen2.5:7b", description="Model of `fast` on Ollama.")
    mlx_model_strong: str = Field("default_model", description="Model of `auto` and `default` on `local_mlx`.")
    mlx_model_fast: str = Field("default_model", description="Model of `fast` on `local_mlx`.")
    model_aliases_json: str = Field("", description="Aliases of models (JSON); wins over the file.")
    model_aliases_path: Path | None = Field(None, description="File with the aliases of models (JSON).")
    router_enable_policy: Flag = Field(False, description="Choose the model of `auto` by tools, length and kind.")
    router_long_context_chars: Annotated[int, Field(ge=1)] = Field(
        40_000, description="A text longer than this goes to the alias `long`."
    )
    router_enable_request_type: Flag = Field(
        False, description="With the policy: X-Request-Type, or code in the text, leads to the alias `coder`."
    )
    models_cache_ttl_sec: Seconds = Field(10, description="A class's list of models is used again for this long.")
    models_probe_timeout_sec: Seconds = Field(3, description="A class must list its models within this.")
    mock_chat_script: str = Field(
        "", description="Adds the scripted model `mock`: `builtin`, or the path of a script (JSON)."
    )

    # Images
    images_backend: ImagesBackend = Field("mock", description="What draws: mock, http_a1111, http_openai_images.")
    images_backend_class: str = Field("gpu_heavy", description="The class whose slots pictures take.")
    images_http_base_url: BaseUrl = Field(
        "http://127.0.0.1:7860", description="The image server, unless the class names one."
    )
    images_http_timeout_sec: Seconds = Field(120, description="A picture must be drawn within this.")
    images_a1111_steps: Annotated[int, Field(ge=1, le=200)] = Field(20, description="Steps where a request names none.")
    images_openai_model: str = Field(
        "auto", description="Model sent where a request names none; auto: chosen by prompt."
    )
    images_openai_model_fast: str = Field("gpu_fast", description="Model for prompts without photographic words.")
    images_openai_model_slow: str = Field("gpu_slow", description="Model for prompts with photographic words.")
    images_enable_request_type: Flag = Field(True, description="Choose fast or slow by the prompt; off: send no model.")
    images_max_pixels: Annotated[int, Field(ge=1)] = Field(2_000_000, description="Largest width times height.")
    ui_image_dir: Path = Field(Path("images"), description="Where pictures are kept (below the state directory).")
    ui_image_ttl_sec: Seconds = Field(900, description="Pictures are kept this long after their last use.")
    ui_image_max_bytes: Bytes = Field(50_000_000, description="Largest picture.")
    ui_image_store_max_bytes: Bytes = Field(
        2_000_000_000, description="All pictures together; the least used go first."
    )

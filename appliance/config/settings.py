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
    parse_host_ports,
    parse_names,
    parse_networks,
    parse_paths,
)

ImagesBackend = Literal["mock", "http_a1111", "http_comfyui", "http_invokeai", "http_openai_images"]
Port = Annotated[int, Field(ge=0, le=65535)]  # 0: any free one, said in the ready line
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Flag = Annotated[bool, BeforeValidator(parse_boolean)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(parse_networks)]
Host = Annotated[str, AfterValidator(parse_host)]
HostNames = Annotated[tuple[str, ...], BeforeValidator(parse_host_names)]
HostPorts = Annotated[tuple[str, ...], BeforeValidator(parse_host_ports)]
BaseUrl = Annotated[str, AfterValidator(parse_base_url)]
Names = Annotated[tuple[str, ...], BeforeValidator(parse_names)]
Paths = Annotated[tuple[Path, ...], BeforeValidator(parse_paths)]
Http1 = Literal["lane", "stock"]
ToolsLogMode = Literal["ndjson", "per_invocation", "both"]
ToolsDurability = Literal["strict", "batch"]
RunsLogMode = Literal["per_run", "ndjson", "both"]
Slots = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """What the process was told, frozen. Field descriptions are the README's settings table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Listeners
    gateway_host: Host = Field("127.0.0.1", description="Address of the API listener.")
    gateway_port: Port = Field(8800, description="Port of the API listener; 0 takes a free one.")
    gateway_tls_cert_path: Path | None = Field(None, description="PEM certificate chain: the API listener speaks TLS.")
    gateway_tls_key_path: Path | None = Field(None, description="PEM key of that certificate.")
    gateway_http1: Http1 = Field(
        "lane",
        description="Who speaks HTTP/1.1: `lane`, the short way for plain requests, or `stock`, hypercorn always.",
    )
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
        600,
        description="A model's answer must be whole within this where its client does not stream it; an agent's always.",
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
    images_backend: ImagesBackend = Field(
        "mock", description="What draws: mock, http_a1111, http_comfyui, http_invokeai, http_openai_images."
    )
    images_backend_class: str = Field("gpu_heavy", description="The class whose slots pictures take.")
    images_http_base_url: BaseUrl = Field(
        "http://127.0.0.1:7860", description="The image server, unless the class names one."
    )
    images_http_timeout_sec: Seconds = Field(120, description="A picture must be drawn within this.")
    images_a1111_user: str = Field("", description="User name for classes of provider a1111 (`--api-auth`).")
    images_a1111_password: SecretStr = Field(SecretStr(""), description="Password of that user.")
    images_a1111_steps: Annotated[int, Field(ge=1, le=200)] = Field(20, description="Steps where a request names none.")
    images_invokeai_user: str = Field("", description="E-mail address to log in with, where InvokeAI has users.")
    images_invokeai_password: SecretStr = Field(SecretStr(""), description="The password of that user.")
    images_comfyui_workflow: Path | None = Field(
        None, description="ComfyUI workflows of your own (JSON, docs/comfyui.md); none: the shipped ones."
    )
    images_openai_model: str = Field(
        "auto", description="Model sent where a request names none; auto: chosen by prompt."
    )
    images_openai_model_fast: str = Field("gpu_fast", description="Model for prompts without photographic words.")
    images_openai_model_slow: str = Field("gpu_slow", description="Model for prompts with photographic words.")
    images_enable_request_type: Flag = Field(True, description="Choose fast or slow by the prompt; off: send no model.")
    images_max_pixels: Annotated[int, Field(ge=1)] = Field(2_000_000, description="Largest width times height.")
    images_max_upload_bytes: Bytes = Field(
        50_000_000, description="Largest body of an edit, pictures and mask together; 0: no limit."
    )
    ui_image_dir: Path = Field(Path("images"), description="Where pictures are kept (below the state directory).")
    ui_image_ttl_sec: Seconds = Field(900, description="Pictures are kept this long after their last use.")
    ui_image_max_bytes: Bytes = Field(50_000_000, description="Largest picture.")
    ui_image_store_max_bytes: Bytes = Field(
        2_000_000_000, description="All pictures together; the least used go first."
    )

    # Tools
    tools_allow_shell: Flag = Field(False, description="Offer the tool `shell`.")
    tools_allow_fs: Flag = Field(False, description="Offer the tool `read_file`.")
    tools_allow_fs_write: Flag = Field(False, description="Offer the tool `write_file`.")
    tools_allow_http_fetch: Flag = Field(False, description="Offer the tools `http_fetch` and `http_fetch_local`.")
    tools_allow_git: Flag = Field(False, description="Offer the tool `git`.")
    tools_allow_system_info: Flag = Field(False, description="Offer the tool `system_info`.")
    tools_allow_models_refresh: Flag = Field(False, description="Offer the tool `models_refresh`.")
    tools_allowlist: Names = Field((), description="When set, only these tools (csv); the switches above count too.")
    tools_registry_path: Path | None = Field(None, description="Tools of the operator's own (JSON).")
    tools_registry_sha256: str = Field("", description="The registry must have this SHA-256, or nothing starts.")
    tools_max_concurrent: Annotated[int, Field(ge=1)] = Field(8, description="Tools that run at a time.")
    tools_concurrency_timeout_sec: Seconds = Field(5, description="A call waits this long for its turn.")
    tools_rate_limit_rps: Rate = Field(0, description="Calls a second for each token; 0: no limit.")
    tools_rate_limit_burst: Annotated[int, Field(ge=0)] = Field(
        0, description="Calls that may come at once; 0: those of one second."
    )
    tools_shell_cwd: Path | None = Field(None, description="Where `shell` runs; none: an empty directory of its own.")
    tools_shell_timeout_sec: Seconds = Field(20, description="A command must end within this.")
    tools_shell_allowed_cmds: Names = Field((), description="Programs that `shell` may start, by name or path (csv).")
    tools_fs_roots: Paths = Field((), description="Directories that file tools may use (csv).")
    tools_fs_max_bytes: Bytes = Field(200_000, description="Longest content read or written at once.")
    tools_http_allowed_hosts: HostPorts = Field(
        ("127.0.0.1", "localhost"),
        description="Hosts that fetches may ask (csv): `host` for any of its ports, `host:port` for that one.",
    )
    tools_http_timeout_sec: Seconds = Field(10, description="A fetch must end within this.")
    tools_http_max_bytes: Bytes = Field(200_000, description="Longest body that a fetch returns.")
    tools_git_cwd: Path | None = Field(None, description="The repository that `git` looks at.")
    tools_git_timeout_sec: Seconds = Field(20, description="A git command must end within this.")
    tools_subprocess_stdout_max_chars: Bytes = Field(20_000, description="Last characters kept of a program's output.")
    tools_subprocess_stderr_max_chars: Bytes = Field(20_000, description="Last characters kept of its error output.")
    tools_subprocess_max_memory_bytes: Bytes = Field(
        4_294_967_296, description="Address space that each of a tool's processes may take; 0: no limit."
    )
    tools_log_mode: ToolsLogMode = Field(
        "ndjson", description="Records of runs: one journal, one file per_invocation, or both."
    )
    tools_log_path: Path = Field(
        Path("tools/invocations.jsonl"), description="The journal of tool runs (below the state directory)."
    )
    tools_log_dir: Path = Field(Path("tools"), description="Where per_invocation files go (below the state directory).")
    tools_log_max_bytes: Bytes = Field(100_000_000, description="Journal size at which a new segment begins.")
    tools_log_total_max_bytes: Bytes = Field(
        2_000_000_000, description="All records together; the oldest go first. 0: no limit."
    )
    tools_durability: ToolsDurability = Field(
        "strict",
        description="strict: a run with side effects is on the disk before its answer leaves; batch: within 50 ms.",
    )

    # Agents
    agent_specs_path: Path | None = Field(
        None, description="The agents (JSON); none: `default`, with the model `fast`."
    )
    agent_runs_log_mode: RunsLogMode = Field(
        "per_run", description="Transcripts: one file per_run, one journal (ndjson), or both."
    )
    agent_runs_log_dir: Path = Field(Path("agent"), description="Where runs are kept (below the state directory).")
    agent_runs_log_path: Path = Field(
        Path("agent/runs.jsonl"), description="The journal of finished runs (below the state directory)."
    )
    agent_runs_total_max_bytes: Bytes = Field(
        2_000_000_000, description="All transcripts together; the oldest go first. 0: no limit."
    )
    agent_backend_concurrency_ollama: Slots = Field(4, description="Runs at a time on classes of provider `ollama`.")
    agent_backend_concurrency_mlx: Slots = Field(2, description="Runs at a time on the class `local_mlx`.")
    agent_queue_max: Annotated[int, Field(ge=0)] = Field(32, description="Runs that may wait for their turn.")
    agent_queue_timeout_sec: Seconds = Field(2, description="A run, and each of its model calls, waits this long.")
    agent_shed_heavy: Flag = Field(True, description="Runs of tier 1 and 2 do not wait: they are refused at once.")

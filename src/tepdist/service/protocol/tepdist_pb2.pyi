from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_STATE: _ClassVar[Role]
    ROLE_BATCH: _ClassVar[Role]
    ROLE_CONSTANT: _ClassVar[Role]
ROLE_UNSPECIFIED: Role
ROLE_STATE: Role
ROLE_BATCH: Role
ROLE_CONSTANT: Role

class ErrorDetail(_message.Message):
    __slots__ = ("kind", "problem", "where", "hint")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    kind: str
    problem: str
    where: str
    hint: str
    def __init__(self, kind: _Optional[str] = ..., problem: _Optional[str] = ..., where: _Optional[str] = ..., hint: _Optional[str] = ...) -> None: ...

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("protocol_version", "server_version", "jaxlib_version", "stablehlo_minimum_version", "stablehlo_version", "platform", "device_kind", "num_devices", "cluster", "max_chunk_bytes")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    JAXLIB_VERSION_FIELD_NUMBER: _ClassVar[int]
    STABLEHLO_MINIMUM_VERSION_FIELD_NUMBER: _ClassVar[int]
    STABLEHLO_VERSION_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    DEVICE_KIND_FIELD_NUMBER: _ClassVar[int]
    NUM_DEVICES_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    MAX_CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    server_version: str
    jaxlib_version: str
    stablehlo_minimum_version: str
    stablehlo_version: str
    platform: str
    device_kind: str
    num_devices: int
    cluster: str
    max_chunk_bytes: int
    def __init__(self, protocol_version: _Optional[int] = ..., server_version: _Optional[str] = ..., jaxlib_version: _Optional[str] = ..., stablehlo_minimum_version: _Optional[str] = ..., stablehlo_version: _Optional[str] = ..., platform: _Optional[str] = ..., device_kind: _Optional[str] = ..., num_devices: _Optional[int] = ..., cluster: _Optional[str] = ..., max_chunk_bytes: _Optional[int] = ...) -> None: ...

class OpenSessionRequest(_message.Message):
    __slots__ = ("ttl_s",)
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    ttl_s: float
    def __init__(self, ttl_s: _Optional[float] = ...) -> None: ...

class OpenSessionResponse(_message.Message):
    __slots__ = ("session_id", "ttl_s")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    ttl_s: float
    def __init__(self, session_id: _Optional[str] = ..., ttl_s: _Optional[float] = ...) -> None: ...

class KeepAliveRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class KeepAliveResponse(_message.Message):
    __slots__ = ("ttl_s",)
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    ttl_s: float
    def __init__(self, ttl_s: _Optional[float] = ...) -> None: ...

class CloseSessionRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class CloseSessionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ArgumentRole(_message.Message):
    __slots__ = ("name", "role", "batch_dim", "donated")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    BATCH_DIM_FIELD_NUMBER: _ClassVar[int]
    DONATED_FIELD_NUMBER: _ClassVar[int]
    name: str
    role: Role
    batch_dim: int
    donated: bool
    def __init__(self, name: _Optional[str] = ..., role: _Optional[_Union[Role, str]] = ..., batch_dim: _Optional[int] = ..., donated: _Optional[bool] = ...) -> None: ...

class ResultRole(_message.Message):
    __slots__ = ("name", "replaces", "is_loss")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REPLACES_FIELD_NUMBER: _ClassVar[int]
    IS_LOSS_FIELD_NUMBER: _ClassVar[int]
    name: str
    replaces: str
    is_loss: bool
    def __init__(self, name: _Optional[str] = ..., replaces: _Optional[str] = ..., is_loss: _Optional[bool] = ...) -> None: ...

class Roles(_message.Message):
    __slots__ = ("arguments", "results")
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    arguments: _containers.RepeatedCompositeFieldContainer[ArgumentRole]
    results: _containers.RepeatedCompositeFieldContainer[ResultRole]
    def __init__(self, arguments: _Optional[_Iterable[_Union[ArgumentRole, _Mapping]]] = ..., results: _Optional[_Iterable[_Union[ResultRole, _Mapping]]] = ...) -> None: ...

class DimSharding(_message.Message):
    __slots__ = ("axes",)
    AXES_FIELD_NUMBER: _ClassVar[int]
    axes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, axes: _Optional[_Iterable[str]] = ...) -> None: ...

class Constraint(_message.Message):
    __slots__ = ("pattern", "dims")
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    DIMS_FIELD_NUMBER: _ClassVar[int]
    pattern: str
    dims: _containers.RepeatedCompositeFieldContainer[DimSharding]
    def __init__(self, pattern: _Optional[str] = ..., dims: _Optional[_Iterable[_Union[DimSharding, _Mapping]]] = ...) -> None: ...

class PlanOptions(_message.Message):
    __slots__ = ("level", "time_limit_s", "mesh", "num_stages", "num_micro_batches", "schedule", "recompute", "virtual_stages", "zero", "memory_limit_bytes", "constraints", "exact")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    TIME_LIMIT_S_FIELD_NUMBER: _ClassVar[int]
    MESH_FIELD_NUMBER: _ClassVar[int]
    NUM_STAGES_FIELD_NUMBER: _ClassVar[int]
    NUM_MICRO_BATCHES_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    RECOMPUTE_FIELD_NUMBER: _ClassVar[int]
    VIRTUAL_STAGES_FIELD_NUMBER: _ClassVar[int]
    ZERO_FIELD_NUMBER: _ClassVar[int]
    MEMORY_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    CONSTRAINTS_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    level: str
    time_limit_s: float
    mesh: str
    num_stages: int
    num_micro_batches: int
    schedule: str
    recompute: str
    virtual_stages: int
    zero: int
    memory_limit_bytes: int
    constraints: _containers.RepeatedCompositeFieldContainer[Constraint]
    exact: bool
    def __init__(self, level: _Optional[str] = ..., time_limit_s: _Optional[float] = ..., mesh: _Optional[str] = ..., num_stages: _Optional[int] = ..., num_micro_batches: _Optional[int] = ..., schedule: _Optional[str] = ..., recompute: _Optional[str] = ..., virtual_stages: _Optional[int] = ..., zero: _Optional[int] = ..., memory_limit_bytes: _Optional[int] = ..., constraints: _Optional[_Iterable[_Union[Constraint, _Mapping]]] = ..., exact: _Optional[bool] = ...) -> None: ...

class InitResult(_message.Message):
    __slots__ = ("argument",)
    ARGUMENT_FIELD_NUMBER: _ClassVar[int]
    argument: int
    def __init__(self, argument: _Optional[int] = ...) -> None: ...

class InitFor(_message.Message):
    __slots__ = ("program_id", "results")
    PROGRAM_ID_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    program_id: int
    results: _containers.RepeatedCompositeFieldContainer[InitResult]
    def __init__(self, program_id: _Optional[int] = ..., results: _Optional[_Iterable[_Union[InitResult, _Mapping]]] = ...) -> None: ...

class SubmitProgramHeader(_message.Message):
    __slots__ = ("session_id", "name", "roles", "options", "init_for")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    INIT_FOR_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    name: str
    roles: Roles
    options: PlanOptions
    init_for: InitFor
    def __init__(self, session_id: _Optional[str] = ..., name: _Optional[str] = ..., roles: _Optional[_Union[Roles, _Mapping]] = ..., options: _Optional[_Union[PlanOptions, _Mapping]] = ..., init_for: _Optional[_Union[InitFor, _Mapping]] = ...) -> None: ...

class SubmitProgramRequest(_message.Message):
    __slots__ = ("header", "module_chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    MODULE_CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: SubmitProgramHeader
    module_chunk: bytes
    def __init__(self, header: _Optional[_Union[SubmitProgramHeader, _Mapping]] = ..., module_chunk: _Optional[bytes] = ...) -> None: ...

class TensorSpec(_message.Message):
    __slots__ = ("dtype", "shape")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class ArgumentSpec(_message.Message):
    __slots__ = ("role", "tensor")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    role: ArgumentRole
    tensor: TensorSpec
    def __init__(self, role: _Optional[_Union[ArgumentRole, _Mapping]] = ..., tensor: _Optional[_Union[TensorSpec, _Mapping]] = ...) -> None: ...

class ResultSpec(_message.Message):
    __slots__ = ("role", "tensor")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    role: ResultRole
    tensor: TensorSpec
    def __init__(self, role: _Optional[_Union[ResultRole, _Mapping]] = ..., tensor: _Optional[_Union[TensorSpec, _Mapping]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("phase", "fraction")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    phase: str
    fraction: float
    def __init__(self, phase: _Optional[str] = ..., fraction: _Optional[float] = ...) -> None: ...

class Submitted(_message.Message):
    __slots__ = ("program_id", "arguments", "results")
    PROGRAM_ID_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    program_id: int
    arguments: _containers.RepeatedCompositeFieldContainer[ArgumentSpec]
    results: _containers.RepeatedCompositeFieldContainer[ResultSpec]
    def __init__(self, program_id: _Optional[int] = ..., arguments: _Optional[_Iterable[_Union[ArgumentSpec, _Mapping]]] = ..., results: _Optional[_Iterable[_Union[ResultSpec, _Mapping]]] = ...) -> None: ...

class SubmitProgramResponse(_message.Message):
    __slots__ = ("progress", "submitted", "plan_json_chunk")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_FIELD_NUMBER: _ClassVar[int]
    PLAN_JSON_CHUNK_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    submitted: Submitted
    plan_json_chunk: bytes
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., submitted: _Optional[_Union[Submitted, _Mapping]] = ..., plan_json_chunk: _Optional[bytes] = ...) -> None: ...

class ProgramRequest(_message.Message):
    __slots__ = ("session_id", "program_id")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    program_id: int
    def __init__(self, session_id: _Optional[str] = ..., program_id: _Optional[int] = ...) -> None: ...

class TextChunk(_message.Message):
    __slots__ = ("index", "data")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    index: int
    data: bytes
    def __init__(self, index: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class TensorChunk(_message.Message):
    __slots__ = ("index", "data")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    index: int
    data: bytes
    def __init__(self, index: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class PutTensorsHeader(_message.Message):
    __slots__ = ("session_id", "tensors")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    tensors: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    def __init__(self, session_id: _Optional[str] = ..., tensors: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ...) -> None: ...

class PutTensorsRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: PutTensorsHeader
    chunk: TensorChunk
    def __init__(self, header: _Optional[_Union[PutTensorsHeader, _Mapping]] = ..., chunk: _Optional[_Union[TensorChunk, _Mapping]] = ...) -> None: ...

class PutTensorsResponse(_message.Message):
    __slots__ = ("handles",)
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    handles: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, handles: _Optional[_Iterable[int]] = ...) -> None: ...

class Argument(_message.Message):
    __slots__ = ("handle", "tensor")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    handle: int
    tensor: TensorSpec
    def __init__(self, handle: _Optional[int] = ..., tensor: _Optional[_Union[TensorSpec, _Mapping]] = ...) -> None: ...

class StepHeader(_message.Message):
    __slots__ = ("session_id", "program_id", "arguments", "release", "chunks")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_ID_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    program_id: int
    arguments: _containers.RepeatedCompositeFieldContainer[Argument]
    release: _containers.RepeatedScalarFieldContainer[int]
    chunks: _containers.RepeatedCompositeFieldContainer[TensorChunk]
    def __init__(self, session_id: _Optional[str] = ..., program_id: _Optional[int] = ..., arguments: _Optional[_Iterable[_Union[Argument, _Mapping]]] = ..., release: _Optional[_Iterable[int]] = ..., chunks: _Optional[_Iterable[_Union[TensorChunk, _Mapping]]] = ...) -> None: ...

class StepRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: StepHeader
    chunk: TensorChunk
    def __init__(self, header: _Optional[_Union[StepHeader, _Mapping]] = ..., chunk: _Optional[_Union[TensorChunk, _Mapping]] = ...) -> None: ...

class StepResponse(_message.Message):
    __slots__ = ("step", "results")
    STEP_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    step: int
    results: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, step: _Optional[int] = ..., results: _Optional[_Iterable[int]] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("session_id", "handles", "headers_only")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    HEADERS_ONLY_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    handles: _containers.RepeatedScalarFieldContainer[int]
    headers_only: bool
    def __init__(self, session_id: _Optional[str] = ..., handles: _Optional[_Iterable[int]] = ..., headers_only: _Optional[bool] = ...) -> None: ...

class TensorHeader(_message.Message):
    __slots__ = ("index", "tensor")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    index: int
    tensor: TensorSpec
    def __init__(self, index: _Optional[int] = ..., tensor: _Optional[_Union[TensorSpec, _Mapping]] = ...) -> None: ...

class FetchResponse(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: TensorHeader
    chunk: TensorChunk
    def __init__(self, header: _Optional[_Union[TensorHeader, _Mapping]] = ..., chunk: _Optional[_Union[TensorChunk, _Mapping]] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("session_id", "handles")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    handles: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, session_id: _Optional[str] = ..., handles: _Optional[_Iterable[int]] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ProgramStatus(_message.Message):
    __slots__ = ("name", "fingerprint", "num_steps")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    name: str
    fingerprint: str
    num_steps: int
    def __init__(self, name: _Optional[str] = ..., fingerprint: _Optional[str] = ..., num_steps: _Optional[int] = ...) -> None: ...

class SessionStatus(_message.Message):
    __slots__ = ("number", "client", "age_s", "lease_left_s", "num_tensors", "device_bytes", "host_bytes", "programs")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    LEASE_LEFT_S_FIELD_NUMBER: _ClassVar[int]
    NUM_TENSORS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_BYTES_FIELD_NUMBER: _ClassVar[int]
    HOST_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROGRAMS_FIELD_NUMBER: _ClassVar[int]
    number: int
    client: str
    age_s: float
    lease_left_s: float
    num_tensors: int
    device_bytes: int
    host_bytes: int
    programs: _containers.RepeatedCompositeFieldContainer[ProgramStatus]
    def __init__(self, number: _Optional[int] = ..., client: _Optional[str] = ..., age_s: _Optional[float] = ..., lease_left_s: _Optional[float] = ..., num_tensors: _Optional[int] = ..., device_bytes: _Optional[int] = ..., host_bytes: _Optional[int] = ..., programs: _Optional[_Iterable[_Union[ProgramStatus, _Mapping]]] = ...) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("uptime_s", "sessions")
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    uptime_s: float
    sessions: _containers.RepeatedCompositeFieldContainer[SessionStatus]
    def __init__(self, uptime_s: _Optional[float] = ..., sessions: _Optional[_Iterable[_Union[SessionStatus, _Mapping]]] = ...) -> None: ...

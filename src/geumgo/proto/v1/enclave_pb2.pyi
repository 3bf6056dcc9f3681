from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class CallRequest(_message.Message):
    __slots__ = ("operation", "body", "sealed")
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    operation: str
    body: bytes
    sealed: bool
    def __init__(self, operation: _Optional[str] = ..., body: _Optional[bytes] = ..., sealed: _Optional[bool] = ...) -> None: ...

class CallResponse(_message.Message):
    __slots__ = ("body",)
    BODY_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    def __init__(self, body: _Optional[bytes] = ...) -> None: ...

class AttestRequest(_message.Message):
    __slots__ = ("nonce", "use")
    NONCE_FIELD_NUMBER: _ClassVar[int]
    USE_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    use: str
    def __init__(self, nonce: _Optional[bytes] = ..., use: _Optional[str] = ...) -> None: ...

class AttestResponse(_message.Message):
    __slots__ = ("kind", "document", "statement")
    KIND_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    kind: str
    document: bytes
    statement: bytes
    def __init__(self, kind: _Optional[str] = ..., document: _Optional[bytes] = ..., statement: _Optional[bytes] = ...) -> None: ...

class Problem(_message.Message):
    __slots__ = ("code", "retryable", "title", "detail", "retry_after_ms")
    CODE_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    code: str
    retryable: bool
    title: str
    detail: str
    retry_after_ms: int
    def __init__(self, code: _Optional[str] = ..., retryable: _Optional[bool] = ..., title: _Optional[str] = ..., detail: _Optional[str] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

"""An enclave operation in ten lines."""

import msgspec

from geumgo.enclave import Enclave

app = Enclave()


class Person(msgspec.Struct):
    name: str


class Greeting(msgspec.Struct):
    text: str


@app.operation("hello", open=True, idempotent=True)
async def hello(request: Person) -> Greeting:
    return Greeting(f"Hello, {request.name}!")

"""The program inside the test image: it does whatever the test sends, like an adversary with full control.

On each connection to port 7007: a 4-byte length and a JSON object `{"code": text, "arguments": {…}}` come
in; `code` runs with `arguments` as globals and sets `result`; a length and the result as JSON go back.
"""

import asyncio
import json
import os
import sys
import traceback

from geumgo.vsock.provider import provider

PORT = 7007


async def answer(sock):
    loop = asyncio.get_running_loop()

    async def read(count):
        data = b""
        while len(data) < count:
            chunk = await loop.sock_recv(sock, count - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return data

    try:
        request = json.loads(await read(int.from_bytes(await read(4), "big")))
        scope = {**request["arguments"], "result": None}
        try:
            exec(compile(request["code"], "<test>", "exec"), scope)
            if "main" in scope:
                scope["result"] = await scope["main"]()
            reply = {"result": scope["result"]}
        except BaseException:
            reply = {"error": traceback.format_exc()}
        text = json.dumps(reply).encode()
        await loop.sock_sendall(sock, len(text).to_bytes(4, "big") + text)
    except (EOFError, OSError):
        pass
    finally:
        sock.close()


async def serve():
    print("this line is for the console", flush=True)
    print("this one too", file=sys.stderr, flush=True)
    listener = await provider().listen(PORT)
    tasks = set()
    while True:
        sock, _ = await listener.accept()
        task = asyncio.create_task(answer(sock))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    if os.environ.get("PROBE_CRASH"):
        sys.exit("the program gives up")
    asyncio.run(serve())

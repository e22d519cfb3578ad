"""A real WebSocket server for the tests: echo, rooms, a login, subprotocols, a token, close codes.

    websocket_server.py PORT TLS_PORT CERTIFICATE KEY

/echo            every frame comes back
/all             every frame goes to all clients of /all, the sender too
/twice, /drop    the same, but twice; or never
/room            wants {"type": "login", "token": "geheim"}, answers {"type": "welcome"}; then {"type": "say", "text": T}
                 is answered with {"type": "ack"} and goes to the room as {"type": "message", "text": T}
/close/CODE/WHY  closes at once
/gated           wants `Authorization: Bearer geheim`, then echoes
anything else    404, and / answers 200 with a page
"""

import asyncio
import json
import ssl
import sys
from http import HTTPStatus

import websockets

ROOMS = {}


async def upgrade(path, headers):
    if path == "/":
        return HTTPStatus.OK, [("Content-Type", "text/html")], b"<h1>hello</h1>"
    if path == "/gated" and headers.get("Authorization") != "Bearer geheim":
        return HTTPStatus.UNAUTHORIZED, [("Content-Type", "text/plain")], b"a token is missing\n"
    if path.split("/")[1] not in ("echo", "all", "twice", "drop", "room", "close", "gated"):
        return HTTPStatus.NOT_FOUND, [], b""
    return None


async def login(socket):
    words = json.loads(await socket.recv())
    if words.get("token") != "geheim":
        await socket.close(1008, "wrong token")
        return False
    await socket.send(json.dumps({"type": "welcome"}))
    return True


async def serve(socket, path):
    kind = path.split("/")[1]
    if kind == "close":
        _, _, code, why = path.split("/")
        return await socket.close(int(code), why)
    if kind == "room" and not await login(socket):
        return
    room = ROOMS.setdefault(kind, set())
    room.add(socket)
    try:
        async for frame in socket:
            if kind in ("echo", "gated"):
                await socket.send(frame)
            elif kind == "room":
                text = json.loads(frame)["text"]
                await socket.send(json.dumps({"type": "ack"}))
                websockets.broadcast(room, json.dumps({"type": "message", "text": text}))
            else:
                for _ in range({"all": 1, "twice": 2, "drop": 0}[kind]):
                    websockets.broadcast(room, frame)
    finally:
        room.discard(socket)


async def main():
    port, tls_port, certificate, key = sys.argv[1:]
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    options = {"process_request": upgrade, "subprotocols": ["chat.v2", "chat.v1"]}
    # The port without TLS last: when it is open, both are.
    async with websockets.serve(serve, "127.0.0.1", int(tls_port), ssl=tls, **options):
        async with websockets.serve(serve, "127.0.0.1", int(port), **options):
            await asyncio.Future()


asyncio.run(main())

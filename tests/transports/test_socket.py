"""How do bytes become frames? However they are cut, and whatever is wrong with them."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosedOK, InvalidMessage, InvalidStatus
from websockets.frames import DATA_OPCODES, CloseCode, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from rc_push.envelope import Envelope, Source
from rc_push.transports import inbox
from rc_push.transports.socket import (
    BUFFER_BYTES,
    FRAME_MAX_BYTES,
    HTTP_HEAD_MAX_BYTES,
    IN_EIGHT_BYTES,
    IN_TWO_BYTES,
    Socket,
    span_at,
)

WITHIN_S = 5.0


class Transport(asyncio.Transport):
    """What a connection writes to, and what it asks of the socket."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_reading_paused = False

    def write(self, data):
        self.written += data

    def write_eof(self):
        pass

    def can_write_eof(self):
        return True

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def pause_reading(self):
        self.is_reading_paused = True

    def resume_reading(self):
        self.is_reading_paused = False

    def abort(self):
        pass


class Wire:
    """A connection that a test feeds by hand."""

    def __init__(self) -> None:
        protocol = ClientProtocol(parse_uri("ws://127.0.0.1/"), max_size=FRAME_MAX_BYTES)
        self.socket = Socket(protocol)
        self.transport = Transport()
        self.socket.connection_made(self.transport)
        request = protocol.connect()
        protocol.send_request(request)
        server = ServerProtocol()
        server.receive_data(b"".join(protocol.data_to_send()))
        [request] = server.events_received()
        server.send_response(server.accept(request))
        self.answer = b"".join(server.data_to_send())

    def feed(self, data, sizes=(BUFFER_BYTES,)):
        """Let *data* come in pieces of *sizes*, over and over."""
        view, number = memoryview(data), 0
        while view:
            room = self.socket.get_buffer(-1)
            size = min(len(room), len(view), sizes[number % len(sizes)])
            room[:size] = view[:size]
            view, number = view[size:], number + 1
            self.socket.buffer_updated(size)

    def take(self):
        return self.socket.inbox.take()

    def sent(self):
        """Return the frames that were sent back."""
        server = ServerProtocol(state=1)
        server.receive_data(self.transport.written)
        self.transport.written = b""
        return [(frame.opcode, bytes(frame.data)) for frame in server.events_received()]


def open_wire():
    wire = Wire()
    wire.feed(wire.answer)
    wire.transport.written = b""
    return wire


def frame(data, opcode=Opcode.TEXT, *, fin=True, mask=False):
    return Frame(opcode, data, fin).serialize(mask=mask)


@pytest.fixture(autouse=True)
async def in_a_loop():
    """A connection belongs to the loop that runs."""


# ------------------------------------------------------------------------------------------------------ the handshake


@pytest.mark.parametrize("sizes", [(BUFFER_BYTES,), (40, BUFFER_BYTES), (1,), (90, 3)])
async def test_a_refused_upgrade_is_known_however_its_answer_is_cut(sizes):
    wire = Wire()
    wire.feed(b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nContent-Length: 7\r\n\r\nblocked", sizes)
    response = wire.socket.response
    assert response is not None
    assert (response.status_code, response.body) == (403, b"blocked")


async def test_a_connection_that_never_began_ends_without_an_error():
    Socket(ClientProtocol(parse_uri("wss://127.0.0.1/"))).connection_lost(ConnectionResetError())


# ------------------------------------------------------------------------------------------------------- what is right

LENGTHS = st.one_of(st.integers(0, 300), st.sampled_from([125, 126, 127, 65_535, 65_536, 70_000]))
MESSAGES = st.lists(
    st.tuples(LENGTHS, st.integers(1, 3), st.booleans(), st.sampled_from([Opcode.TEXT, Opcode.TEXT, Opcode.BINARY])),
    max_size=8,
)
SIZES = st.lists(st.one_of(st.integers(1, 20), st.integers(1, 100_000)), min_size=1, max_size=5)


def stream_of(messages):
    """Return *messages* as they would come, in pieces and with pings between, and what they are."""
    stream, expected, pings = b"", [], []
    for number, (length, pieces, with_ping, opcode) in enumerate(messages):
        data = (b"%d:" % number + b"x" * length)[: max(length, 2)]
        expected.append(data)
        step = -(-len(data) // pieces)
        for piece in range(pieces):
            opcode_now = opcode if piece == 0 else Opcode.CONT
            stream += frame(data[piece * step : (piece + 1) * step], opcode_now, fin=piece == pieces - 1)
            if with_ping:
                pings.append(b"%d" % len(pings))
                stream += frame(pings[-1], Opcode.PING)
    return stream, expected, pings


@settings(deadline=None)  # with a loop of its own, on a machine that others use
@given(messages=MESSAGES, sizes=SIZES)
def test_messages_come_whole_and_in_order_however_they_are_cut(messages, sizes):
    async def check():
        stream, expected, pings = stream_of(messages)
        wire = open_wire()
        wire.feed(stream, sizes)
        assert wire.take() == expected
        assert wire.sent() == [(Opcode.PONG, ping) for ping in pings]

    asyncio.run(check())


@settings(deadline=None)  # with a loop of its own, on a machine that others use
@given(sizes=SIZES)
def test_the_answer_to_the_handshake_may_be_cut_anywhere_and_have_frames_behind_it(sizes):
    async def check():
        wire = Wire()
        wire.feed(wire.answer + frame(b"first") + frame(b"second"), sizes)
        assert wire.take() == [b"first", b"second"]

    asyncio.run(check())


async def test_a_text_of_nothing_is_a_text():
    wire = open_wire()
    wire.feed(frame(b"") + frame(b"x"))
    assert wire.take() == [b"", b"x"]


async def test_a_frame_larger_than_the_buffer_comes_whole_and_the_buffer_is_small_again():
    wire, data = open_wire(), os.urandom(3 * BUFFER_BYTES)
    wire.feed(frame(data) + frame(b"next"), [100_000])
    assert wire.take() == [data, b"next"]
    assert len(wire.socket.get_buffer(-1)) == BUFFER_BYTES


async def test_the_largest_frame_comes_and_one_byte_more_ends_the_connection():
    wire = open_wire()
    largest = bytes(FRAME_MAX_BYTES)
    wire.feed(frame(largest))
    assert wire.take() == [largest]
    wire.feed(frame(largest + b"x")[:64])  # known from its head
    assert wire.sent()[0][1][:2] == CloseCode.MESSAGE_TOO_BIG.to_bytes(2)


async def test_full_it_stops_reading_until_there_is_room(monkeypatch):
    monkeypatch.setattr(inbox, "BUFFER_MAX_BYTES", 1000)
    wire = open_wire()
    wire.feed(frame(b"x" * 600) * 2)
    assert wire.transport.is_reading_paused
    assert len(wire.socket.inbox.take(1)) == 1
    assert not wire.transport.is_reading_paused


async def test_what_has_been_opened_counts_by_what_is_kept_of_it(monkeypatch):
    monkeypatch.setattr(inbox, "BUFFER_MAX_BYTES", 1000 + 3 * inbox.EVENT_BYTES)
    wire = open_wire()
    event = Envelope("1", "post.added", b"x" * 300, Source("main", "team", "websocket"), 0)
    wire.socket.inbox.open = lambda frames: [event for _ in frames]
    wire.feed(frame(b"x" * 600) * 3)
    assert not wire.transport.is_reading_paused
    wire.feed(frame(b"x" * 600))
    assert wire.transport.is_reading_paused
    assert wire.socket.inbox.take(1) == [event]
    assert not wire.transport.is_reading_paused
    assert wire.take() == [event] * 3


async def test_usual_frames_and_others_come_in_their_order_however_they_are_mixed():
    sizes = [0, 125, 126, 127, 65_535, 65_536, 1, 300, 70_000, 126]
    sent = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    wire = open_wire()
    data = b"".join(map(frame, sent))
    wire.feed(data)
    assert wire.take() == sent
    for begin in range(0, len(data), 1000):
        wire.feed(data[begin : begin + 1000])
    assert wire.take() == sent


async def test_at_the_end_all_is_read_whatever_the_bound(monkeypatch):
    monkeypatch.setattr(inbox, "BUFFER_MAX_BYTES", 1000)
    wire = open_wire()
    wire.feed(frame(b"x" * 600) * 2)
    waiting = asyncio.create_task(wire.socket.inbox.wait_end())
    await asyncio.sleep(0)
    assert not wire.transport.is_reading_paused
    wire.feed(frame(b"y" * 600) * 2)
    assert not wire.transport.is_reading_paused
    wire.socket.connection_lost(None)
    await waiting
    assert len(wire.take()) == 4


# ------------------------------------------------------------------------------------------------------- how it ends


async def test_a_close_is_answered_and_what_comes_behind_it_is_nothing():
    wire = open_wire()
    goodbye = b"\x03\xe8bye"
    wire.feed(frame(b"last") + frame(goodbye, Opcode.CLOSE) + frame(b"too late") + b"\xff" * 50)
    wire.feed(frame(b"later still"))
    assert wire.take() == [b"last"]
    assert wire.sent() == [(Opcode.CLOSE, goodbye)]
    wire.socket.connection_lost(None)
    assert wire.socket.inbox.has_ended_cleanly
    assert "code 1000" in str(wire.socket.inbox.error())


async def test_what_comes_while_we_close_still_counts():
    wire = open_wire()
    closing = asyncio.create_task(wire.socket.close())
    await asyncio.sleep(0)
    wire.feed(frame(b"under way") + frame(b"\x03\xe8", Opcode.CLOSE))
    wire.socket.connection_lost(None)
    await closing
    assert wire.take() == [b"under way"]
    assert wire.socket.inbox.has_ended_cleanly


async def test_a_connection_that_breaks_off_within_a_frame_is_no_clean_end():
    wire = open_wire()
    wire.feed(frame(b"whole") + frame(b"half")[:4])
    wire.socket.eof_received()
    wire.socket.connection_lost(None)
    assert wire.take() == [b"whole"]
    assert not wire.socket.inbox.has_ended_cleanly
    assert not isinstance(wire.socket.protocol.close_exc, ConnectionClosedOK)


WRONG = {
    "masked": (frame(b"x", mask=True), CloseCode.PROTOCOL_ERROR),
    "a reserved bit": (b"\xc1\x01x", CloseCode.PROTOCOL_ERROR),
    "an opcode nobody knows": (b"\x83\x01x", CloseCode.PROTOCOL_ERROR),
    "a piece without a beginning": (frame(b"x", Opcode.CONT), CloseCode.PROTOCOL_ERROR),
    "a text within a text": (frame(b"x", fin=False) + frame(b"y"), CloseCode.PROTOCOL_ERROR),
    "a ping in pieces": (b"\x09\x01x", CloseCode.PROTOCOL_ERROR),
    "a length beyond all": (b"\x81\x7f" + b"\xff" * 8, CloseCode.MESSAGE_TOO_BIG),
    "pieces that are too much together": (
        frame(bytes(FRAME_MAX_BYTES), fin=False) + frame(b"x", Opcode.CONT),
        CloseCode.MESSAGE_TOO_BIG,
    ),
}


@pytest.mark.parametrize("sizes", [(BUFFER_BYTES,), (100_000, 1, 3)])
@pytest.mark.parametrize("name", WRONG)
async def test_what_no_server_may_send_ends_the_connection_with_its_code(name, sizes):
    data, code = WRONG[name]
    wire = open_wire()
    wire.feed(frame(b"right") + data + frame(b"behind it"), sizes)
    assert wire.take() == [b"right"]
    assert [sent[1][:2] for sent in wire.sent() if sent[0] is Opcode.CLOSE] == [code.to_bytes(2)]


@settings(deadline=None)  # with a loop of its own, on a machine that others use
@given(noise=st.binary(max_size=400), sizes=SIZES)
def test_noise_never_raises_nor_is_more_than_what_came(noise, sizes):
    async def check():
        wire = open_wire()
        wire.feed(noise, sizes)
        assert sum(map(len, wire.take())) <= len(noise)

    asyncio.run(check())


@given(data=st.binary(max_size=40), at=st.integers(0, 40))
def test_a_frame_never_ends_where_it_begins(data, at):
    start, stop = span_at(memoryview(data), at)
    assert stop > at
    assert start == 0 or at < start <= stop


def raw_frame(first, length_form, payload, *, mask):
    """Return a frame as nobody should send it: any first byte, a length in more bytes than it needs, or masked."""
    second = 0x80 if mask else 0
    if length_form == IN_TWO_BYTES:
        head = bytes([first, second | IN_TWO_BYTES]) + len(payload).to_bytes(2)
    elif length_form == IN_EIGHT_BYTES:
        head = bytes([first, second | IN_EIGHT_BYTES]) + len(payload).to_bytes(8)
    else:
        payload = payload[: IN_TWO_BYTES - 1]
        head = bytes([first, second | len(payload)])
    return head + (b"\0\0\0\0" if mask else b"") + payload


# Mostly what may come: whole texts, pieces of them, pings; then binaries, closes, reserved bits, unknown opcodes.
FIRST = st.sampled_from([0x81] * 6 + [0x01, 0x00, 0x80] * 2 + [0x89, 0x8A, 0x82, 0x88, 0x09, 0xC1, 0x83])
RAW_FRAME = st.builds(
    raw_frame,
    FIRST,
    st.sampled_from([0, IN_TWO_BYTES, IN_TWO_BYTES, IN_EIGHT_BYTES]),
    st.one_of(st.binary(max_size=8), st.integers(0, 300).map(lambda size: b"\x03\xe8" + b"x" * size)),
    mask=st.sampled_from([False] * 20 + [True]),
)


def read_by_library(stream, sizes):
    """Return the messages that the library finds in *stream*, and what it sends back."""
    protocol = ClientProtocol(parse_uri("ws://127.0.0.1/"), max_size=FRAME_MAX_BYTES, state=State.OPEN)
    number = 0
    while stream:
        size = sizes[number % len(sizes)]
        protocol.receive_data(stream[:size])
        stream, number = stream[size:], number + 1
    messages, pieces = [], []
    for event in protocol.events_received():
        if event.opcode in DATA_OPCODES:
            pieces.append(bytes(event.data))
            if event.fin:
                messages.append(b"".join(pieces))
                pieces = []
    server = ServerProtocol(state=State.OPEN)
    server.receive_data(b"".join(protocol.data_to_send()))
    return messages, [(event.opcode, bytes(event.data)) for event in server.events_received()]


@settings(deadline=None)  # with a loop of its own, on a machine that others use
@given(frames=st.lists(RAW_FRAME, max_size=12), sizes=SIZES)
def test_whatever_comes_is_read_as_the_library_reads_it(frames, sizes):
    async def check():
        stream = b"".join(frames)
        wire = open_wire()
        wire.feed(stream, sizes)
        assert (wire.take(), wire.sent()) == read_by_library(stream, sizes)

    asyncio.run(check())


async def connect_to(answer):
    """Connect to a server that says *answer* and no more."""

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(WITHIN_S):
            await connect(f"ws://127.0.0.1:{port}/", create_connection=Socket, proxy=None)


async def test_a_refusal_with_its_body_is_the_librarys():
    with pytest.raises(InvalidStatus) as refused:
        await connect_to(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\n\r\nsorry")
    assert (refused.value.response.status_code, refused.value.response.body) == (401, b"sorry")


async def test_an_answer_without_end_is_given_up():
    with pytest.raises(InvalidMessage):
        await connect_to(b"HTTP/1.1 101 Switching Protocols\r\n" + b"X: y\r\n" * HTTP_HEAD_MAX_BYTES)

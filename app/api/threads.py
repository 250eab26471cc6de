"""Threads for bodies that are too large to be decoded or encoded on the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")
#: Threads of the process. They compute beside the worker of the model: more of them would take its time. Bodies wait
#: in the order in which they came.
CODEC_THREADS = 2
_executor = ThreadPoolExecutor(CODEC_THREADS, thread_name_prefix="codec")


async def run_in_thread(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in one of these threads."""
    return await asyncio.get_running_loop().run_in_executor(_executor, function, *arguments)

"""A minimal FastAPI service that computes with torch, without ONNX Runtime and without batches: `uvicorn naive:app`."""

import os
from pathlib import Path

import torch
from fastapi import FastAPI
from pydantic import BaseModel

from model import checkpoint

torch.set_num_threads(int(os.environ["THREADS"]))
vae = checkpoint.load(Path(os.environ["CHECKPOINT"])).vae
app = FastAPI()


class Inputs(BaseModel):
    inputs: list[list[list[float]]]


class Encoded(BaseModel):
    mean: list[list[float]]
    variance: list[list[float]]


@app.post("/encode")
def encode(body: Inputs) -> Encoded:
    with torch.inference_mode():
        q = vae.encode(torch.tensor(body.inputs).unsqueeze(1))
    return Encoded(mean=q.mean.tolist(), variance=q.variance.tolist())

"""Plans made by hand, and steps that are traced once for all tests."""

from functools import cache

from minivim_lab.plan import Plan, Traffic
from minivim_lab.plan.program import Inputs, Program

traced_once = cache(Inputs)


def a_program(name="step", *, share=1.0, **changes) -> Program:
    values = {
        "needed": 2**30,
        "flops": 8e12,
        "hbm_bytes": 10**9,
        "compile_seconds": 1.0,
        "processor_seconds": 2.0,
        "fits": True,
    }
    return Program(name=name, share=share, **(values | changes))


REFUSED = {
    "fits": False,
    "needed": 40 * 2**30,
    "refusal": "Ran out of memory on HBM",
    "hbm_bytes": 0,
}


def a_plan(*programs: Program, **changes) -> Plan:
    traffic = {"all-reduce": Traffic(count=2, bytes=4 * 10**9, wire=8e9)}
    values = {
        "recipe": "vim-large",
        "stage": "prior",
        "settings": (),
        "topology": "v4:4x4x4",
        "chips": 64,
        "mesh": "data=64,fsdp=1,tensor=1",
        "precision": "float32",
        "remat": "full",
        "optimiser": "AdamW",
        "batch_size": 1024,
        "accumulate": 1,
        "steps": 86_400,
        "parameters": 10**9,
        "frozen": {"tokenizer": 55_000_000},
        "state_bytes": 12 * 10**9,
        "argument_bytes": 13 * 10**9,
        "available_bytes": 30 * 2**30,
        "programs": programs or (a_program(collectives=traffic),),
        "model_flops": 6e12,
        "mfu": 0.5,
        "peak_flops": 12e12,
        "hbm_bandwidth": 1e9,
        "ici_bandwidth": 4e9,
    }
    return Plan(**(values | changes))

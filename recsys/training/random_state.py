"""The state of torch's random generators, which dropout draws from."""

import torch
import torch.distributed as dist
from torch import Tensor


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of the CPU's generator and, on a CUDA device, of that one's: uint8 tensors on the CPU."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def random_states(device: torch.device) -> list[dict[str, Tensor]]:
    """Return the states of all processes, by rank; all of them have to ask."""
    state = random_state(device)
    if not (dist.is_available() and dist.is_initialized()):
        return [state]
    states = [state] * dist.get_world_size()
    dist.all_gather_object(states, state)
    return states


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Go on with a state; a kind of device that it does not have keeps its own."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)

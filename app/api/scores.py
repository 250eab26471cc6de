"""`/free-energy`."""

from starlette.responses import Response

from app.api.operation import Operation
from app.api.problems import NotAcceptable
from app.api.request import Request
from app.api.schemas import FreeEnergies, FreeEnergyQuery
from app.api.state import Service


async def free_energy(request: Request, service: Service, query: FreeEnergyQuery) -> Response:
    if query.format == "png" and not query.per_dimension:
        raise NotAcceptable("format=png shows the map of where the surprise is; ask for per_dimension=true with it")
    form = service.form(request, query.format, pictures=query.per_dimension)
    service.limit("query.samples", query.samples, service.settings.max_samples)
    x = await service.inputs(request, strict=query.strict)
    work = len(x) * query.samples * (1 + query.refine)
    service.limit("rows x query.samples x (1 + query.refine)", work, service.settings.max_work)
    scored = service.engine.free_energy(
        x, query.samples, query.seed, request.context, steps=query.refine, per_dimension=query.per_dimension
    )
    result = await request.work(service.watch, scored)
    answer = {
        "samples": query.samples,
        "refine": query.refine,
        "seed": query.seed,
        **vars(result.estimates),
        "regret": result.regret,
        "typicality": result.calibrated.typicality,
        "p_values": result.calibrated.p_values,
        "p_values_reason": result.calibrated.reason,
    }
    if result.per_dimension is None:
        return await service.answer(request, form, answer)
    answer["per_dimension"] = service.outside(result.per_dimension)
    pictures = service.brighten(result.per_dimension) if form == "png" else None
    return await service.answer(request, form, answer, pictures)


FREE_ENERGY = Operation(
    "POST",
    "/free-energy",
    "Variational free energy of each input",
    "F(x) = E_Q[nlog P(x, z)] - H(Q) >= nlog P(x), in nats: a bound on how improbable an input is, and a code length. "
    "Higher is more anomalous. More `samples` estimate it more closely and tighten `nlog_p_x`; `refine` fits Q to each "
    "input, and `regret` is what that saves. The same draws serve every row, so a score depends on (x, seed, samples, "
    "refine) alone. `p_values` say how rare a score is among inputs that neither fitted nor chose the model.",
    FreeEnergyQuery,
    free_energy,
    FreeEnergies,
    body="inputs",
    forms=("json", "npz", "png"),
    deadline=True,
)

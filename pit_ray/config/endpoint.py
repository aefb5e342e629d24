"""The part of the configuration that names an OpenAI-compatible endpoint and says how it may be used."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from pit_ray.config.section import Section


class Endpoint(Section):
    """A model behind an OpenAI-compatible address: the public API, or for instance a vLLM server of your own."""

    base_url: str = Field(pattern=r"^https?://\S+$")
    """Where `/chat/completions` lies, for instance https://api.openai.com/v1 or http://127.0.0.1:8000/v1."""
    model: str = Field(min_length=1)
    """The model's name there."""
    key_variable: str = Field("OPENAI_API_KEY", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The environment variable that holds the key; never the key itself. It may be unset where no key is needed."""
    timeout: PositiveFloat = 60.0
    """Seconds for one request, from sending it to the end of the answer."""
    retries: int = Field(4, ge=0)
    """How often a request that failed is sent again: no connection, no answer in time, 408, 409, 429, 5xx, or an
    answer that cannot be read. The wait doubles from half a second to 8, or is what the endpoint asks for, up to two
    minutes."""
    concurrency: PositiveInt = 8
    """Requests in flight at a time."""
    requests_per_minute: PositiveInt | None = None
    """Requests are spaced so that no more are sent, repeated ones included. null: no limit."""
    max_requests: PositiveInt | None = None
    """The budget: most requests that the kept answers and failed tries may have taken, over all starts of the run. Once
    it is spent the run stops with an error, and goes on when it is raised. null: no limit."""
    input_price: NonNegativeFloat = 0.0
    """Per million tokens of the requests, in any currency; for the cost that is counted."""
    output_price: NonNegativeFloat = 0.0
    """Per million tokens of the answers."""
    temperature: NonNegativeFloat = 0.0
    """Of the answers."""
    max_tokens: PositiveInt = 1024
    """Longest answer, in tokens, including what a reasoning model thinks."""

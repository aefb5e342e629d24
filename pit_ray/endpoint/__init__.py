"""An OpenAI-compatible endpoint: what is asked (answers.py), how (connection.py), and what is kept (client.py)."""

from pit_ray.endpoint.answers import Answer, ChatRequest
from pit_ray.endpoint.client import EndpointClient, Spent

__all__ = ["Answer", "ChatRequest", "EndpointClient", "Spent"]

"""Executors: where the commands of a study run. Each wraps an engine that exists."""

from gtacli.executors.base import Executor, ExecutorOptions, Job

__all__ = ["Executor", "ExecutorOptions", "Job"]

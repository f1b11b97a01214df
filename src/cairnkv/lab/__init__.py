"""Local clusters, fault injection, the consistency checker, protocol tracing: for tests and learning."""

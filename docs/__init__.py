"""Programs that write the documents from the code, and data for documents and tests."""

"""Programs that write the documents from the code, and the data that only documents and tests need."""

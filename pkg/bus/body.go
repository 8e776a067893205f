package bus

const typeJSON = "application/json"
